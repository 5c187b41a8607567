package main

import (
	"encoding/json"
	"net/http"
	"os"
	"time"
)

// Reads deliveries from standard input, each [expected, secret, headers, body, now], and writes
// whether the function of the documentation takes them.
func main() {
	var cases [][]json.RawMessage
	if json.NewDecoder(os.Stdin).Decode(&cases) != nil {
		os.Exit(1)
	}
	seen := []bool{}
	for _, each := range cases {
		var secret, body string
		var sent map[string]string
		var now float64
		for at, to := range map[int]any{1: &secret, 2: &sent, 3: &body, 4: &now} {
			if json.Unmarshal(each[at], to) != nil {
				os.Exit(1)
			}
		}
		header := http.Header{}
		for name, value := range sent {
			header.Set(name, value)
		}
		seen = append(seen, Authentic(secret, header, []byte(body), time.Unix(int64(now), 0)))
	}
	if json.NewEncoder(os.Stdout).Encode(seen) != nil {
		os.Exit(1)
	}
}
