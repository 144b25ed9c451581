"""Events in other people's formats, one file a format; pure."""
