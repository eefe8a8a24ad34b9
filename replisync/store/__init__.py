"""The target's database: devpi's own tables, and ours beside them."""
