"""PushT (gym-pusht): pushing a T-shaped block into its place; the field's own task with many ways."""
