{{ changes('user') }}
