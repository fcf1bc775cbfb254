"""Tables, figures, the page and the timeline, from stored results."""
