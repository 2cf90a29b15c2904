/** Passive ejection of endpoints that fail real traffic. */

/** What outlier detection counts about one endpoint. */
export class OutlierRecord {
  consecutiveErrors = 0
  requests = 0
  errors = 0
  windowFromMs = -Infinity
}
