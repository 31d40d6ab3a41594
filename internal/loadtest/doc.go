// Package loadtest is the oracle of our promises: clients that speak plain HTTP/1.1, repeat nothing in secret, and compare
// every answer byte by byte. A promise such as "a reload loses no request" is a run of these clients whose Result.Err is nil.
//
//	load, err := loadtest.Start(ctx, loadtest.Plan{
//		Target:   "127.0.0.1:8080",
//		Mix:      loadtest.Mix{KeepAlive: 50, Paused: 50, OneShot: 20, Pipelined: 10, Standard: 5},
//		Duration: time.Minute, // at the latest; Stop ends it sooner
//	})
//	…                         // load.Await(1000), kill -HUP, load.Await(1000), …
//	if err := load.Stop().Err(); err != nil {
//		t.Error(err)
//	}
//
// # The contract of the target
//
// (One implementation is echo.go, the application's is /debug/echo.)
//
//	POST <path>?body=1&nonce=N   200, the body that was sent, and header X-Nonce: N
//	GET  <path>?nonce=N          200, and N in header X-Nonce or somewhere in the body
//	any                          optional header X-Worker: who answered
//
// Bodies are random, from nothing to MaxBody, now and then LargeBody, and begin with the nonce: an answer that belongs to
// another request, or to another client, cannot pass for the right one.
//
// # What counts as what
//
// A request fails when its client did not get the one right answer on the connection on which it was sent; the Class says how.
// A close by the server between two requests fails nothing, but stands in its own columns: announced by "Connection: close",
// silent, or by reset. Clients that keep connections alive should see none of the three while workers are replaced.
//
// A context that ends, Stop, a spent number of requests: all three mean "send no more"; what is under way is finished, within
// Plan.Timeout. Runs are bounded always, and only this machine is a target.
package loadtest
