-- What the API asks for beside the online tables. Replaced at every set-up.

-- An entity's published values at earlier as_of's, newest first, for people who look at one.
-- `keys` is an object of its join keys and their values, all that the online table has.
-- With the owner's rights, so that the serving role sees this much of the past and no more. Late
-- bound: the published views need not exist yet, and may be replaced.
drop function if exists online.history(text, text, int); -- of an earlier release
create or replace function online.history(view_name text, keys jsonb, most int)
returns table (as_of timestamptz, known_at timestamptz, features jsonb)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    source regclass := to_regclass(format('published.%I', view_name || '_latest'));
    join_keys text[] := array(
        select attname::text from pg_index inner join pg_attribute on attrelid = indrelid
        where indrelid = to_regclass(format('online.%I', view_name)) and indisprimary
            and attnum = any(indkey)
        order by attname
    );
begin
    if source is null then
        return;
    end if;
    if join_keys is distinct from array(select key from jsonb_object_keys(keys) as key order by key) then
        raise exception '% is found by %, and not by %', view_name, join_keys, keys
            using errcode = 'invalid_parameter_value';
    end if;
    return query execute format(
        'select as_of, known_at, to_jsonb(latest) from %s as latest '
        'where %s order by as_of desc limit $1',
        source, (
            -- A literal takes the type of its column, so that the index finds it.
            select string_agg(format('%I = %L', key, value), ' and ')
            from jsonb_each_text(keys) as given (key, value)
        )
    ) using most;
end $$;
revoke all on function online.history(text, jsonb, int) from public;
