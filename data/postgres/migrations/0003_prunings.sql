-- One row per `make prune` that took something out. Versions known before `answers_from` are gone
-- where a later one replaced them, so that a question as known before it has no full answer.

create table ledger.prunings (
    pruning_id bigint generated always as identity primary key,
    kept interval not null,
    answers_from timestamptz,                 -- null: every publication can still be asked for
    raw_answers_from bigint not null,         -- raw rows in effect are known after this load
    removed jsonb not null,                   -- table -> rows
    bytes_before bigint not null,             -- of the project's schemas
    bytes_after bigint not null,              -- before Postgres has given space back to the disk
    pruned_at timestamptz not null default clock_timestamp()
);
