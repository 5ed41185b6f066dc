"""The command ``billing-client``; each module adds its own sub-commands."""
