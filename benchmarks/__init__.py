"""How fast the parts are: each module is a command that prints a Markdown table and writes a JSON file."""
