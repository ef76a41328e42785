{{ changes('user_device') }}
