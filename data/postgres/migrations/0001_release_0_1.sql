-- What release 0.1 made: the schemas and the ledger. It kept no record of what it had applied, so
-- this one may meet a database that has some of it. The raw tables follow from their declaration.

create schema if not exists raw;       -- drops as delivered; written by data/, read by staging
create schema if not exists staging;   -- dbt views: typed, effective rows as of the newest build
create schema if not exists features;  -- dbt tables: every version, append-only
create schema if not exists published; -- views of `features`: published versions only
create schema if not exists online;    -- one typed row an entity and view; Feast's registry
create schema if not exists ledger;    -- what was built, published, materialized and audited

-- One row per load: a drop folder that changed something.
create table if not exists raw.loads (
    load_id bigint not null,                  -- ascending in the order of commit
    table_name text not null,
    as_of timestamptz not null,               -- the drop's date, midnight UTC
    loaded_at timestamptz not null,
    rows_read bigint not null,
    rows_added bigint not null,
    rows_retracted bigint not null,
    sha256 text not null,                     -- of the file
    recorded text[],                          -- columns that the file has; null: not noted, all
    primary key (load_id, table_name)
);

-- One row per dbt invocation that may append versions.
create table if not exists ledger.builds (
    known_at timestamptz primary key,         -- stamps every version this build appends
    invocation_id text not null unique,
    status text not null check (status in ('running', 'published', 'unpublished')),
    load_from bigint not null,                -- loads up to here were published before
    load_to bigint not null,                  -- this build sees loads up to here
    recompute boolean not null,
    cadence text,
    since timestamptz,                        -- a calendar's first instant; null: as the drops are
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz
);

-- One row per data or unit test that a build ran, published or not.
create table if not exists ledger.tests (
    invocation_id text not null references ledger.builds (invocation_id),
    test_id text not null,                    -- dbt's unique_id
    name text not null,
    kind text not null,                       -- test or unit_test
    status text not null,                     -- as dbt names it: pass, warn, fail, error, skipped
    failures bigint not null,                 -- rows that the test found
    message text not null,
    seconds double precision not null,
    primary key (invocation_id, test_id)
);

-- One row per publication: the switch that makes a build's versions visible to readers.
create table if not exists ledger.publications (
    known_at timestamptz primary key references ledger.builds,
    invocation_id text not null unique,
    code_version text not null,               -- git sha, or a checksum of the definitions
    load_to bigint not null,
    cadence text not null,
    since timestamptz,                        -- as in ledger.builds
    rows_appended jsonb not null,             -- table -> rows
    definitions jsonb not null,               -- table -> model or macro it is made from -> checksum
    manifest json,                            -- its feature tables and services, as dbt's manifest has them
    tests_run bigint not null,
    published_at timestamptz not null default clock_timestamp()
);

-- Columns that these tables have gained. (Only where one is missing: an `alter` waits for readers.)
do $$
declare
    gained record;
begin
    for gained in select * from (values
        ('raw.loads', 'recorded', 'text[]'),
        ('ledger.builds', 'cadence', 'text'),
        ('ledger.builds', 'since', 'timestamptz'),
        ('ledger.publications', 'since', 'timestamptz'),
        ('ledger.publications', 'manifest', 'json')
    ) as known (table_name, column_name, type) where not exists (
        select from pg_attribute
        where attrelid = known.table_name::regclass and attname = known.column_name
    ) loop
        execute format(
            'alter table %s add column %I %s', gained.table_name, gained.column_name, gained.type
        );
    end loop;
end $$;

-- One row per view and materialization that committed. (A row of zeros: the online table was made
-- or altered, so the next materialization fills it anew.)
create table if not exists ledger.materializations (
    materialization_id bigint generated always as identity primary key,
    view_name text not null,
    store text not null default 'postgres',   -- the online store: postgres is schema online
    as_of timestamptz,                        -- what is online since: the users of this as_of ...
    publication timestamptz not null,         -- ... as known at this known_at
    start_date timestamptz,                   -- null: incremental
    end_date timestamptz not null,
    columns text[] not null,                  -- the feature columns it filled
    considered bigint not null,
    changed bigint not null,
    unchanged bigint not null,
    removed bigint not null,
    seconds double precision not null,
    materialized_at timestamptz not null default clock_timestamp()
);

-- One row per view and audit: does online equal offline?
create table if not exists ledger.audits (
    audit_id bigint generated always as identity primary key,
    view_name text not null,
    store text not null default 'postgres',   -- as in ledger.materializations
    as_of timestamptz,                        -- of the offline rows compared; null: there are none
    publication timestamptz not null,
    compared bigint not null,
    differing bigint not null,
    missing bigint not null,                  -- offline, not online
    extra bigint not null,                    -- online, not offline
    seconds double precision not null,
    audited_at timestamptz not null default clock_timestamp()
);
