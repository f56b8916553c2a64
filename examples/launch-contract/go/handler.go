// A handler that stays: a job is a line on stdin, its answer a line on stdout.
package main

import (
	"encoding/json"
	"os"
)

type job struct {
	ID      string `json:"job_id"`
	Payload struct {
		Numbers []float64 `json:"numbers"`
	} `json:"payload"`
	Cancel string `json:"cancel"`
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var j job
		if err := in.Decode(&j); err != nil {
			if _, wrong := err.(*json.UnmarshalTypeError); wrong {
				out.Encode(map[string]any{"ok": false, "error": "numbers: expected a list of numbers", "retry": false})
				continue
			}
			return // the end of stdin
		}
		if j.Cancel != "" {
			continue // a word for the job before, which has ended meanwhile
		}
		if j.Payload.Numbers == nil {
			out.Encode(map[string]any{"ok": false, "error": "numbers: expected a list of numbers", "retry": false})
			continue
		}
		sum := 0.0
		for _, n := range j.Payload.Numbers {
			sum += n
			out.Encode(map[string]any{"progress": map[string]float64{"sum_so_far": sum}})
		}
		out.Encode(map[string]any{"ok": true, "result": map[string]float64{"sum": sum}, "job_id": j.ID})
	}
}
