"""Guest processors that come with Holdfast."""
