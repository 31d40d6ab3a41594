package tasks

func playRole(string) int { return 2 }
