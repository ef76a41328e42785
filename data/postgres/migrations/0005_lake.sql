-- Where dbt builds on Spark: of which view and as_of the versions were brought from the lake into
-- published.<view>, and up to which publication.
create table ledger.brought (
    view_name text not null,
    as_of timestamptz not null,
    publication timestamptz not null,
    primary key (view_name, as_of)
);
