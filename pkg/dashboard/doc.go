// Package dashboard is the supervisor's page for operators: what there is and why, live, with buttons for what they may change. It knows the
// supervisor by a few functions (Options) and by the types of pkg/control. Linux only, as what it shows.
//
// # One goroutine looks
//
//	Options.Read ──► hub ──► one frame ──► all open pages (server-sent events)
//	Options.Follow ─►
//
// The hub (hub.go) owns the history, the events, what was asked for here, and the list of pages. It samples once a second, while somebody looks and for
// a short tail, whether one page is open or thirty. A frame is all that a page shows, as pieces with keys: a tile, a worker's row, an event. What has changed
// between two frames is one message, made once; a page that is slow misses some, and gets the whole frame when it takes messages again. Nobody
// waits for a page.
//
// All HTML is made by templates here. Without a script the page is the same, just not live: its buttons lead to pages that ask.
//
//	dashboard.go  the handler and its options      hub.go       who looks, what they get
//	access.go     token, sessions, forms           sample.go    what is measured: rates, latencies, sparklines
//	attempts.go   wrong tokens                     timeline.go  what has happened
//	actions.go    what buttons do                  frame.go     pieces, and the difference between frames
//	asked.go      what came of it                  sheet.go     what the pieces say; words.go in which words
//	stream.go     server-sent events               files/       templates, style sheet, script
//
// # Messages
//
// Each is JSON. Event "whole" has all pieces, an unnamed one what has changed:
//
//	lists   [{name, keys, made}]        keys: the pieces of a list in their order, when that changed; made: HTML of those that are new or another now
//	cells   {piece: {name: text}}       texts within a piece
//	points  {piece: {name: y}}          the next point of a sparkline
//	lines   {piece: {name: points}}     a whole sparkline: its scale changed
//	say     [text]                      for screen readers
//
// Event "elsewhere" says that the session has opened newer streams, and that this one ends: a browser has six connections for an address. Event "over" ends a
// stream whose session has ended.
package dashboard
