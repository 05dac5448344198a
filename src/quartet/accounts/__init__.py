"""People: users, sessions, passwords, roles."""
