"""The project's own method: take a trigger vector, choose α, subtract; for an attack that is known or was recovered."""
