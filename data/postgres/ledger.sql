-- Publication: what becomes visible, in one transaction. Safe to run again.

-- The columns of a relation in their order, as a list of {name, type}; empty: there is none.
create or replace function ledger.columns_of(relation text) returns jsonb
language sql stable as $$
    select coalesce(
        jsonb_agg(
            jsonb_build_object('name', attname, 'type', format_type(atttypid, atttypmod))
            order by attnum
        ),
        '[]'
    )
    from pg_attribute
    where attrelid = to_regclass(relation) and attnum > 0 and not attisdropped
$$;

-- A type by Postgres's own name, with the size of a numeric.
create or replace function ledger.type_name(type text) returns text
language sql stable as $$
    select type::regtype::text || case
        when type::regtype = 'numeric'::regtype and type like '%(%'
            then regexp_replace(
                regexp_replace(substring(type from '[(].*[)]'), ' ', '', 'g'),
                '^[(]([0-9]+)[)]$', '(\1,0)'
            )
        else ''
    end
$$;

-- The join keys of a table by a kept manifest: those of its entity. Manifests of earlier releases
-- name no entity; there was one.
create or replace function ledger.join_keys(manifest json, table_name text) returns text[]
language sql stable as $$
    select coalesce(
        (
            select array(select json_object_keys(entity -> 'join_keys'))
            from (
                select value -> 'config' -> 'meta' as meta from json_each(manifest -> 'nodes')
                where value ->> 'resource_type' = 'model' and value ->> 'name' = table_name
            ) as model
            inner join (
                select value -> 'config' -> 'meta' -> 'entity' as entity
                from json_each(manifest -> 'nodes')
            ) as spine
                on entity ->> 'name'
                = coalesce(meta -> 'made_from' ->> 'entity', meta -> 'feast' ->> 'entity')
        ),
        array['user_id']
    )
$$;

-- Drop published.<table> and published.<table>_latest; the statements that grant again what people
-- had granted on them.
create or replace function ledger.drop_published(table_name text) returns text[]
language plpgsql as $$
declare
    views text[] := array[
        format('published.%I', table_name || '_latest'), format('published.%I', table_name)
    ];
    view text;
    grants text[];
begin
    select coalesce(array_agg(format(
        'grant %s on %s to %s', privilege_type, oid::regclass,
        case grantee when 0 then 'public' else grantee::regrole::text end
    )), '{}')
    into grants
    from pg_class cross join aclexplode(relacl)
    where oid = any(array(select to_regclass(name) from unnest(views) as name))
        and grantee <> relowner;
    foreach view in array views loop
        execute format('drop view if exists %s', view);
    end loop;
    return grants;
end $$;

-- Have the published views of a table with these join keys show `wanted`, a list of {name, type}:
-- the columns of a publication, whatever others the table has. Where nothing differs, nothing is
-- locked.
drop function if exists ledger.show_published(text, jsonb); -- of an earlier release
create or replace function ledger.show_published(
    table_name text, wanted jsonb, join_keys text[]
) returns void
language plpgsql as $$
declare
    versions text := format('features.%I', table_name);
    newest text := format('published.%I', table_name || '_latest');
    shown text := format('published.%I', table_name);
    there jsonb := ledger.columns_of(shown);
    names text;
    casts text;
    keys text := (select string_agg(quote_ident(key), ', ') from unnest(join_keys) as key);
    grants text[] := '{}';
    statement text;
begin
    -- Columns stay where they are and new ones come last, so that the view is replaced in place.
    select
        jsonb_agg(jsonb_build_object('name', name, 'type', type) order by old.place, stored.place),
        string_agg(quote_ident(name), ', ' order by old.place, stored.place),
        string_agg(
            format(case when type = stored.stored_as then '%1$I' else 'cast(%1$I as %2$s) as %1$I' end,
                name, type),
            ', ' order by old.place, stored.place
        )
    into wanted, names, casts
    from (
        select item ->> 'name' as name, ledger.type_name(item ->> 'type') as type
        from jsonb_array_elements(wanted) as item
    ) as asked
    inner join (
        select item ->> 'name' as name, item ->> 'type' as stored_as, place
        from jsonb_array_elements(ledger.columns_of(versions)) with ordinality as listed (item, place)
    ) as stored using (name)
    left join (
        select item ->> 'name' as name, place
        from jsonb_array_elements(there) with ordinality as listed (item, place)
    ) as old using (name);

    if wanted = there then
        return;
    end if;
    if exists (
        select from jsonb_array_elements(there) with ordinality as listed (item, place)
        where item is distinct from wanted -> (place - 1)::int
    ) then
        grants := ledger.drop_published(table_name);
    end if;
    execute format(
        'create or replace view %s as select %s from %s '
        'where known_at <= (select max(known_at) from ledger.publications)',
        shown, casts, versions
    );
    execute format(
        'create or replace view %1$s as select %2$s from (select distinct on (%4$s, as_of) * '
        'from %3$s order by %4$s, as_of, known_at desc) as newest where not is_retracted',
        newest, names, shown, keys
    );
    foreach statement in array grants loop
        execute statement;
    end loop;
end $$;

-- Change the types of a table's columns (column -> type), which its published views would prevent.
-- They show the same columns and types as before.
create or replace function ledger.retype(table_name text, types jsonb) returns void
language plpgsql as $$
declare
    there jsonb := ledger.columns_of(format('published.%I', table_name));
    grants text[] := ledger.drop_published(table_name);
    statement text;
begin
    select format('alter table features.%I ', table_name)
        || string_agg(format('alter column %I type %s', key, value), ', ')
    into statement
    from jsonb_each_text(types);
    execute statement;
    if there <> '[]' then
        perform ledger.show_published(table_name, there, ledger.join_keys(
            (select manifest from ledger.publications order by known_at desc limit 1), table_name
        ));
    end if;
    foreach statement in array grants loop
        execute statement;
    end loop;
end $$;

-- The switch: publish a running build. `manifest` holds `nodes` as dbt's manifest does; the columns
-- of its models are those that the published views show from now on.
create or replace function ledger.publish(
    of_invocation text, code_version text, rows_appended jsonb, definitions jsonb, manifest json,
    tests_run bigint
) returns void language plpgsql as $$
declare
    build ledger.builds;
    node json;
begin
    update ledger.builds set status = 'published', ended_at = clock_timestamp()
    where invocation_id = of_invocation and status = 'running'
    returning * into build;
    if not found then
        raise exception 'this build was taken over by a later one; nothing of it is published';
    end if;
    insert into ledger.publications (
        known_at, invocation_id, code_version, load_to, cadence, since, rows_appended,
        definitions, manifest, tests_run
    ) values (
        build.known_at, build.invocation_id, code_version, build.load_to, build.cadence,
        build.since, rows_appended, definitions, manifest, tests_run
    );
    for node in
        select value from json_each(manifest -> 'nodes')
        where value ->> 'resource_type' = 'model'
            and value -> 'config' -> 'meta' -> 'entity' is null -- a spine is published in no view
    loop
        perform ledger.show_published(node ->> 'name', (
            select jsonb_agg(jsonb_build_object(
                'name', value ->> 'name', 'type', value ->> 'data_type'
            ))
            from json_each(node -> 'columns')
        ), ledger.join_keys(manifest, node ->> 'name'));
    end loop;
    -- A table that is defined no more: its versions stay, its views go.
    perform ledger.drop_published(relname)
    from pg_class
    where relnamespace = 'features'::regnamespace and relkind in ('r', 'p')
        and to_regclass(format('published.%I', relname)) is not null
        and relname not in (
            select value ->> 'name' from json_each(manifest -> 'nodes')
            where value ->> 'resource_type' = 'model'
        );
end $$;
