"""Who may call what, and how much: clients with tokens, roles, quotas and weights. See docs/access.md."""
