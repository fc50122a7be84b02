"""What every part uses: errors, names, files."""
