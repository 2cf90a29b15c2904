// HS256 tokens by golang-jwt, as fast as it can for SECONDS: prints CPU time per token and one of them.
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func mint(secret []byte) string {
	nowSec := time.Now().Unix()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": "fluxor", "aud": "api", "sub": "bench", "iat": nowSec, "exp": nowSec + 3600,
	}).SignedString(secret)
	if err != nil {
		panic(err)
	}
	return token
}

func cpuNs() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func main() {
	secret := []byte(os.Getenv("SECRET"))
	seconds, err := strconv.ParseFloat(os.Getenv("SECONDS"), 64)
	if err != nil {
		panic(err)
	}
	run := func(seconds float64) (count int64, token string) {
		until := time.Now().Add(time.Duration(seconds * float64(time.Second)))
		for time.Now().Before(until) {
			for range 100 {
				token = mint(secret)
			}
			count += 100
		}
		return count, token
	}
	run(0.2)
	before := cpuNs()
	count, token := run(seconds)
	fmt.Printf("{\"nsPerToken\":%.1f,\"token\":%q}\n", float64(cpuNs()-before)/float64(count), token)
}
