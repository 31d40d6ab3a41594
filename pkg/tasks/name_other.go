//go:build !linux

package tasks

// Only Linux tells enough to prove a death. Elsewhere the lease tells.
func findPlace() place { return place{} }

func processGone(int, string) bool { return false }
