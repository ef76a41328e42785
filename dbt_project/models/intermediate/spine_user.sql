{{ spine_from_state(entity='user', table='users', since='signup_date') }}
