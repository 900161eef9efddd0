// Produces one payment event of each type. See ../README.md.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type event struct {
	ID         string `json:"id"`
	Type       string `json:"type"`
	ProjectID  string `json:"projectId"`
	OccurredAt string `json:"occurredAt"`
	Data       any    `json:"data"`
}

// Amounts are texts: a float would lose digits.
type payment struct {
	PaymentID  string `json:"paymentId"`
	EndpointID string `json:"endpointId"`
	CustomerID string `json:"customerId"`
	Amount     string `json:"amount"`
	Currency   string `json:"currency"`
	Network    string `json:"network"`
}

type settled struct {
	payment
	TxHash string `json:"txHash"`
}

type failed struct {
	payment
	Stage  string `json:"stage"`
	Reason string `json:"reason"`
}

type firstPayment struct {
	CustomerID string `json:"customerId"`
	PaymentID  string `json:"paymentId"`
	EndpointID string `json:"endpointId"`
	Amount     string `json:"amount"`
	Currency   string `json:"currency"`
}

type milestone struct {
	CustomerID string `json:"customerId"`
	Milestone  string `json:"milestone"`
	TotalSpent string `json:"totalSpent"`
	Currency   string `json:"currency"`
}

type endpointCreated struct {
	EndpointID string `json:"endpointId"`
	Path       string `json:"path"`
	Price      string `json:"price"`
	Currency   string `json:"currency"`
	Network    string `json:"network"`
}

type pricingChanged struct {
	EndpointID string `json:"endpointId"`
	Path       string `json:"path"`
	OldPrice   string `json:"oldPrice"`
	NewPrice   string `json:"newPrice"`
	Currency   string `json:"currency"`
}

type dailySummary struct {
	Date          string `json:"date"`
	Revenue       string `json:"revenue"`
	Currency      string `json:"currency"`
	PaymentCount  int64  `json:"paymentCount"`
	CustomerCount int64  `json:"customerCount"`
	FailedCount   int64  `json:"failedCount"`
}

const (
	wallet   = "0x52908400098527886E0F7030069857D2E4169EE7"
	endpoint = "ep_summarize"
	path     = "POST /v1/summarize"
)

func pay(id string) payment {
	return payment{id, endpoint, wallet, "1.250000", "USDC", "base"}
}

var events = []struct {
	kind string
	data any
}{
	{"payment.verified", pay("pay_1")},
	{"payment.settled", settled{pay("pay_1"), "0x9fe1"}},
	{"payment.failed", failed{pay("pay_2"), "settle", "insufficient_funds"}},
	{"customer.first_payment", firstPayment{wallet, "pay_1", endpoint, "1.250000", "USDC"}},
	{"customer.milestone", milestone{wallet, "100 calls", "125.500000", "USDC"}},
	{"endpoint.created", endpointCreated{endpoint, path, "0.05", "USDC", "base"}},
	{"endpoint.pricing_changed", pricingChanged{endpoint, path, "0.05", "0.07", "USDC"}},
	{"revenue.daily_summary", dailySummary{"2026-11-22", "1234.567800", "USDC", 24690, 321, 12}},
}

func setting(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}

// Go escapes <, > and & for HTML unless it is told not to.
func marshal(e event) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(e)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

func main() {
	project := setting("PROJECT", "proj_1")
	now := time.Now().UTC()
	// The event's own id and time. A repeat of the same event must have the same id.
	prefix := setting("EVENT_ID_PREFIX", fmt.Sprintf("evt_%x_%d_", now.UnixNano(), os.Getpid()))
	occurredAt := setting("OCCURRED_AT", now.Format("2006-01-02T15:04:05.000Z"))

	// franz-go's defaults: idempotent, acknowledged by all replicas, the partitioner of Kafka's Java
	// clients for records with a key.
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(setting("BOOTSTRAP_SERVERS", "localhost:9092"), ",")...),
		kgo.DefaultProduceTopic(setting("TOPIC", "dunmore.payments.events")),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for number, each := range events {
		e := event{fmt.Sprintf("%s%d", prefix, number+1), each.kind, project, occurredAt, each.data}
		value, err := marshal(e)
		if err != nil {
			log.Fatal(err)
		}
		// The key is the project: the events of a project stay in order.
		record := &kgo.Record{Key: []byte(project), Value: value}
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			log.Fatalf("not written: %v", err)
		}
		fmt.Println(e.ID, e.Type)
	}
}
