"""What any training needs: one gradient step, several machines, files written whole."""
