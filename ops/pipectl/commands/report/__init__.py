"""`report`: its text with charts for a terminal, its page with interactive ones, and the page's template."""
