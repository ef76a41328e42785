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

-- Have the published views of a table show `wanted`, a list of {name, type}: the columns of a
-- publication, whatever others the table has. Where nothing differs, nothing is locked.
create or replace function ledger.show_published(table_name text, wanted jsonb) returns void
language plpgsql as $$
declare
    versions text := format('features.%I', table_name);
    newest text := format('published.%I', table_name || '_latest');
    shown text := format('published.%I', table_name);
    there jsonb := ledger.columns_of(shown);
    names text;
    casts text;
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
        select item ->> 'name' as name, (item ->> 'type')::regtype::text as type
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
        'create or replace view %s as select %s from (select distinct on (user_id, as_of) * '
        'from %s order by user_id, as_of, known_at desc) as newest where not is_retracted',
        newest, names, shown
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
        perform ledger.show_published(table_name, there);
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
        known_at, invocation_id, code_version, load_to, cadence, rows_appended, definitions,
        manifest, tests_run
    ) values (
        build.known_at, build.invocation_id, code_version, build.load_to, build.cadence,
        rows_appended, definitions, manifest, tests_run
    );
    for node in
        select value from json_each(manifest -> 'nodes') where value ->> 'resource_type' = 'model'
    loop
        perform ledger.show_published(node ->> 'name', (
            select jsonb_agg(jsonb_build_object(
                'name', value ->> 'name', 'type', value ->> 'data_type'
            ))
            from json_each(node -> 'columns')
        ));
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
