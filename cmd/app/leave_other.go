//go:build !unix

package main

// leave does nothing: there is no supervisor here that would set max_requests.
func leave() {}
