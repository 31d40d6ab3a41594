// Package protocol is what a supervisor and its workers say to each other: the environment a worker is started with
// (environment.go), the commands on its control channel (control.go), profiles (profile.go), and connections that move between
// processes (move.go). Both ends of each contract lie side by side, so that neither can change alone.
//
// It imports the standard library and golang.org/x/sys only, since every program that imports pkg/worker links it.
package protocol
