// Go's fasthttp answering a fixed JSON body: the home endpoint is measured against it.
package main

import (
	"log"
	"os"

	"github.com/valyala/fasthttp"
)

func main() {
	body := []byte(os.Getenv("BODY"))
	handler := func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("application/json")
		ctx.SetBody(body)
	}
	log.Fatal(fasthttp.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), handler))
}
