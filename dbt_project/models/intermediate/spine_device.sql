{{ spine_from_events(entity='device', tables=['usage'], seen_days=90) }}
