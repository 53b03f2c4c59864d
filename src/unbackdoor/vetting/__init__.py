"""What a model's files are, and whether a model passes a policy: facts, judgement and result of `vet`."""
