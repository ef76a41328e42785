{{ changes('device') }}
