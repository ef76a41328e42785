-- What each role may do, and no more. Run at every set-up, as the owner; names in braces are filled
-- in by roles.py. Nobody but the owner may erase, prune, or change the schema.

revoke all on function raw.hash_of(text, text[]) from public;

-- serving: the API. What is online, and where it came from.
grant usage on schema online, ledger to {serving};
grant select on all tables in schema online, ledger to {serving};
alter default privileges in schema online grant select on tables to {serving};
alter default privileges in schema ledger grant select on tables to {serving};
grant execute on function online.history(text, jsonb, int) to {serving};

-- loader: drops into the raw tables.
grant usage on schema raw to {loader};
grant select, insert, update on all tables in schema raw to {loader};
revoke insert, update on raw.erasures, raw.erased, raw.erasure_salt from {loader};
grant execute on function raw.hash_of(text, text[]) to {loader};

-- builder: dbt. Reads raw; staging, features and published are its own; publishes.
grant usage on schema raw, ledger to {builder};
grant select on all tables in schema raw to {builder};
revoke all on raw.erasures, raw.erased, raw.erasure_salt from {builder};
grant usage, create on schema staging, features, published to {builder};
grant select on all tables in schema ledger to {builder};
grant insert, update on ledger.builds to {builder};
grant insert on ledger.tests, ledger.publications to {builder};

-- materializer: published versions to online, and Feast's registry.
grant usage on schema published, ledger to {materializer};
grant select on all tables in schema published, ledger to {materializer};
grant insert on ledger.materializations to {materializer};
grant usage, create on schema online to {materializer};

-- trainer: published versions, and what Feast knows about them.
grant usage on schema published, ledger, online to {trainer};
grant usage on schema features to {trainer}, {auditor}; -- how large a table is; its rows are not theirs
grant select on all tables in schema published to {trainer};
grant select on ledger.publications, ledger.builds, ledger.prunings to {trainer};

-- auditor: everything that readers see, and how it came about; notes what it found.
grant usage on schema published, online, ledger, raw to {auditor};
grant select on all tables in schema published, online, ledger to {auditor};
grant select on raw.loads, raw.erasures to {auditor};
grant insert on ledger.audits to {auditor};
grant insert, delete on ledger.catalogue to {auditor};
