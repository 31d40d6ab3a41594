//go:build !linux

package worker

// inherit: supervisors run on Linux; elsewhere every program is one that was started by hand.
func inherit() inheritance { return inheritance{} }
