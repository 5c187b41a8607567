"""Pages for people: plain HTML, nothing loaded from another host, no inline script."""
