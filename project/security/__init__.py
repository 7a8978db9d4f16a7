"""Who may come in, and as whom: API keys, scopes, the keyless mode, and the door that every request passes."""
