// Package e2e tells the promises of the README as stories, with the real programs: bin/supervisor, bin/app, small foreign servers,
// and clients that check every byte. It has no code but its tests.
package e2e
