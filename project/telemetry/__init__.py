"""What operators see: log lines, metrics, and the middleware that makes both of every request."""
