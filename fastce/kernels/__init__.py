"""The compiled part: loops over elements, without checks, options or messages."""
