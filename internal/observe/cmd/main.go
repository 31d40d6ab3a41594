// Command cmd writes the dashboards into a directory.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"supervisor/internal/observe"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./internal/observe/cmd DIRECTORY")
		os.Exit(64)
	}
	for name, text := range observe.Files() {
		if err := os.WriteFile(filepath.Join(os.Args[1], name), text, 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
