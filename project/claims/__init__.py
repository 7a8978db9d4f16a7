"""Claims: from the bytes of a request to rows, and back to whoever asks for them."""
