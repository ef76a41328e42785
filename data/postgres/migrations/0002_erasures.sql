-- Who was erased, without saying who: the loader refuses rows of theirs, by hash.

create table raw.erasures (
    erasure_id bigint generated always as identity primary key,
    entity text not null,                     -- as spine models name it
    asked_for bigint not null,                -- ids given
    found jsonb not null,                     -- where -> rows taken out; only ever added to
    code_version text not null,
    began_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz                      -- null: cut off; the same command ends it
);

create table raw.erased (
    entity text not null,
    hash bytea not null,                      -- raw.hash_of(entity, its join keys)
    erasure_id bigint not null references raw.erasures,
    primary key (entity, hash)
);

-- One row. Who has it and the hashes can try ids, so that only the owner and the loader read it.
create table raw.erasure_salt (
    salt bytea not null,
    only_one boolean primary key default true check (only_one)
);
insert into raw.erasure_salt
select decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');

-- The hash of one of an entity, by the text of its join keys in the order of their names.
create function raw.hash_of(entity text, variadic keys text[]) returns bytea
language sql stable strict parallel safe
begin atomic
    select sha256(salt || convert_to(entity || e'\x1f' || array_to_string(keys, e'\x1f'), 'UTF8'))
    from raw.erasure_salt;
end;

-- Rows that a load left out, as they are of somebody who was erased.
alter table raw.loads add column rows_erased bigint not null default 0;
