// A job as a command: the payload on stdin, the result in a file, the verdict in the exit code.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	var payload struct {
		Numbers []float64 `json:"numbers"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&payload); err != nil || payload.Numbers == nil {
		fmt.Fprintln(os.Stderr, "numbers: expected a list of numbers")
		os.Exit(78) // in the type's no_retry_exit_codes
	}
	if err := run(payload.Numbers); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(numbers []float64) error {
	progress, err := os.OpenFile(os.Getenv("ROWLOCK_PROGRESS_FILE"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer progress.Close()
	sum := 0.0
	for _, n := range numbers {
		sum += n
		fmt.Fprintf(progress, "{\"sum_so_far\": %g}\n", sum)
	}
	result, err := json.Marshal(map[string]float64{"sum": sum})
	if err != nil {
		return err
	}
	return os.WriteFile(os.Getenv("ROWLOCK_RESULT_FILE"), result, 0o600)
}
