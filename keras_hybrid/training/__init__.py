"""Parts shared by all training: the gradient step, several machines, atomic writes."""
