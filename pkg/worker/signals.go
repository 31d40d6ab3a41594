package worker

// signal is what a signal means to a worker.
type signal int

const (
	signalStop   signal = iota // drain close
	signalQuick                // cut everything and return
	signalReopen               // reopen log files
)
