{{ spine_from_events(entity='user_device', tables=['usage'], seen_days=90) }}
