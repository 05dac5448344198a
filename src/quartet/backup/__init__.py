"""Backup of the shop into a folder, and restore from it (docs/operations.md)."""

from quartet.backup.model import Manifest
from quartet.backup.service import back_up, restore

__all__ = ["Manifest", "back_up", "restore"]
