-- What the API's catalogue shows of each feature, as of a publication: `make catalogue` makes it.

create table ledger.catalogue (
    view_name text not null,
    feature text not null,
    publication timestamptz not null,         -- its statistics and tests are of this known_at
    document jsonb not null,
    made_at timestamptz not null default clock_timestamp(),
    primary key (view_name, feature)
);
