-- What each load brought of each table, as this build sees it.
select
    load_id,
    table_name,
    as_of,
    recorded
from {{ source('raw', 'loads') }}
where load_id <= {{ current_build().load_to }}
