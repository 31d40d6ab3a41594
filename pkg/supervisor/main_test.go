package supervisor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
	worklib "supervisor/pkg/worker"
)

// envTestWorker makes this test binary one of the small, mostly misbehaving workers below.
const envTestWorker = "TEST_WORKER"

func TestMain(m *testing.M) {
	if IsExecStub() {
		ExecStub()
	}
	// Also an empty mode is one: a worker that ran the tests would start workers that run the tests.
	if mode, is := os.LookupEnv(envTestWorker); is {
		testWorker(mode)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testWorker is one fault, or none. It speaks systemd's protocols only, so it is a foreign worker.
func testWorker(mode string) {
	mode, arg, _ := strings.Cut(mode, ":")
	switch mode {
	case "exit":
		fmt.Fprintln(os.Stderr, "first line before the end")
		fmt.Fprintln(os.Stderr, "cannot open the database")
		code, _ := strconv.Atoi(arg)
		os.Exit(code)
	case "hang": // at boot
		select {}
	case "serve-then-exit":
		notify("READY=1")
		code, _ := strconv.Atoi(arg)
		os.Exit(code)
	case "segv":
		notify("READY=1")
		syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -SEGV $$"}, nil) // Go's runtime would turn it into a status 2
	case "panic":
		notify("READY=1")
		go panic("out of luck")
		select {}
	case "ask": // somebody else, at the control socket
		_, err := control.Dial(arg).Reload(context.Background(), control.Wait{})
		fmt.Println(err)
	case "trap": // cannot start while there is that file
		if _, err := os.Stat(arg); err == nil {
			fmt.Fprintln(os.Stderr, "caught in the trap")
			os.Exit(1)
		}
		worklib.Serve(&http.Server{Handler: http.HandlerFunc(whoami)}, "")
	case "ignore-term":
		signal.Ignore(syscall.SIGTERM, syscall.SIGQUIT)
		notify("READY=1")
		select {}
	case "flood":
		go func() {
			for {
				notify("STATUS=" + time.Now().String())
			}
		}()
		serve()
	case "close-stdout":
		os.Stdout.Close()
		os.Stderr.Close()
		serve()
	case "forks":
		// A child in the group that outlives its parent, unless the supervisor ends the group.
		child := exec.Command("sleep", "600")
		child.Start()
		os.WriteFile(arg, []byte(strconv.Itoa(child.Process.Pid)), 0o600)
		notify("READY=1")
		time.Sleep(50 * time.Millisecond)
		os.Exit(0)
	case "environment":
		text := strings.Join(os.Environ(), "\n") + "\n"
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			target, err := os.Readlink("/proc/self/fd/" + e.Name())
			if err == nil {
				text += "FD " + e.Name() + " " + target + "\n"
			}
		}
		status, _ := os.ReadFile("/proc/self/status")
		wd, _ := os.Getwd()
		text += "PID " + strconv.Itoa(os.Getpid()) + "\nDIR " + wd + "\n" + string(status)
		os.WriteFile(arg, []byte(text), 0o644)
		serve()
	case "watchdog": // beats, and then stops
		notify("READY=1")
		for range 5 {
			notify("WATCHDOG=1")
			time.Sleep(10 * time.Millisecond)
		}
		select {}
	case "lines":
		notify("READY=1")
		n, _ := strconv.Atoi(arg)
		for i := range n {
			fmt.Printf("line %d %s\n", i, strings.Repeat("x", i%300))
		}
		select {}
	case "chatter": // writes as fast as it can
		go func() {
			line := strings.Repeat("x", 200) + "\n"
			for {
				io.WriteString(os.Stdout, line)
			}
		}()
		serve()
	case "usr1":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGUSR1)
		notify("READY=1")
		for range c {
			fmt.Println("reopened")
		}
	case "slow-accept": // busy until TERM, then it serves what is queued
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		notify("READY=1")
		<-term
		ln, err := net.FileListener(os.NewFile(protocol.FirstFD, "socket"))
		if err != nil {
			panic(err)
		}
		for {
			ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Second))
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(conn))
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			conn.Close()
		}
	case "memory":
		n, _ := strconv.Atoi(arg)
		hog := make([]byte, n<<20)
		for i := 0; i < len(hog); i += 4096 {
			hog[i] = 1
		}
		serve()
		runtime.KeepAlive(hog)
	case "other-version": // its supervisor speaks another version of the scoreboard
		fds, _ := protocol.ParseFDs(os.Getenv(protocol.EnvFDs))
		board, err := syscall.Mmap(fds[protocol.FDScoreboard], 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		if err != nil {
			panic(err)
		}
		board[8] = 99
		worklib.Serve(&http.Server{Handler: http.HandlerFunc(whoami)}, "")
	case "brittle", "brittle-foreign": // in slot 1, while the file exists, it dies before it serves
		id, _ := protocol.ParseWorkerID(testWorkerID)
		if _, err := os.Stat(arg); err == nil && id.Slot == 1 {
			os.Exit(1)
		}
		if mode == "brittle-foreign" {
			serve()
			return
		}
		worklib.Serve(&http.Server{Handler: http.HandlerFunc(whoami)}, "")
	case "hoarder": // uses up its descriptors when asked to
		worklib.Serve(&http.Server{Handler: http.HandlerFunc(hoard)}, "")
	case "third": // a good worker, except in slot 2
		if id, _ := protocol.ParseWorkerID(testWorkerID); id.Slot == 2 {
			fmt.Fprintln(os.Stderr, "cannot open the database")
			os.Exit(3)
		}
		worklib.Serve(&http.Server{Handler: http.HandlerFunc(whoami)}, "")
	case "crashes": // at each request
		worklib.Serve(&http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			go panic("out of luck")
			select {}
		})}, "")
	case "errors": // at each request, unless it is asked for its health
		worklib.Serve(&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health" {
				http.Error(w, "no database", http.StatusInternalServerError)
			}
		})}, "")
	case "unwell": // says so
		worklib.Serve(&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/health" {
				http.Error(w, "no database", http.StatusServiceUnavailable)
				return
			}
			whoami(w, r)
		})}, "")
	case "earlier": // it says hello, and knows of commands what it knew when profiles were not there yet
		fds, _ := protocol.ParseFDs(os.Getenv(protocol.EnvFDs))
		control := fds[protocol.FDControl]
		syscall.Write(control, protocol.Command{Verb: protocol.VerbHello}.Packet())
		notify("READY=1")
		for {
			packet, rights := make([]byte, protocol.MaxCommand), make([]byte, 64)
			n, nr, _, _, err := syscall.Recvmsg(control, packet, rights, 0)
			if err == syscall.EAGAIN {
				time.Sleep(time.Millisecond)
				continue
			}
			if n == 0 || err != nil {
				return
			}
			if messages, err := syscall.ParseSocketControlMessage(rights[:nr]); err == nil && len(messages) > 0 {
				received, _ := syscall.ParseUnixRights(&messages[0])
				syscall.Close(received[0])
			}
			if string(packet[:n]) == protocol.VerbDump {
				fmt.Fprintln(os.Stderr, "my goroutines")
			}
			if strings.HasPrefix(string(packet[:n]), protocol.VerbDrain) {
				return
			}
		}
	case "worker": // no foreigner: it loses nothing
		worklib.Serve(&http.Server{Handler: http.HandlerFunc(whoami)}, "")
	default:
		serve()
	}
}

// whoami answers with worker, pid and version.
func whoami(w http.ResponseWriter, r *http.Request) {
	if ms, err := strconv.Atoi(r.FormValue("sleep")); err == nil {
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
	fmt.Fprintf(w, "%s %d %s", testWorkerID, os.Getpid(), os.Getenv("VERSION"))
}

// hoard is whoami that can also open all descriptors that it may have, and close them again.
func hoard(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/hoard":
		for {
			f, err := os.Open(os.DevNull)
			if err != nil {
				break
			}
			hoarded = append(hoarded, f)
		}
	case "/release":
		for _, f := range hoarded {
			f.Close()
		}
		hoarded = nil
	}
	whoami(w, r)
}

var hoarded []*os.File

var testWorkerID = os.Getenv(protocol.EnvWorker) // pkg/worker removes it

// serve answers on the inherited sockets until TERM.
func serve() {
	n, _ := strconv.Atoi(os.Getenv(protocol.EnvListenFDs))
	if os.Getenv(protocol.EnvListenPID) != strconv.Itoa(os.Getpid()) {
		n = 0
	}
	srv := &http.Server{Handler: http.HandlerFunc(whoami)}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	for i := range n {
		ln, err := net.FileListener(os.NewFile(uintptr(protocol.FirstFD+i), "socket"))
		if err != nil {
			panic(err)
		}
		go srv.Serve(ln)
	}
	notify("READY=1")
	<-term
	srv.Shutdown(context.Background())
}

func notify(text string) {
	conn, err := net.Dial("unixgram", os.Getenv(protocol.EnvNotifySocket))
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, text)
}
