-- Spread of the vectors' norms by layer, each pooling and region by itself: zeros, sinks and overflow show here.
-- param model text optional: only this model
SELECT model, site, layer, pooling, region,
       count(*) AS rows,
       count(*) FILTER (norm = 0) AS zeros,
       count(*) FILTER (NOT isfinite(norm)) AS not_finite,
       min(norm) AS least,
       median(norm) AS median,
       max(norm) AS most
FROM activations
WHERE $model::VARCHAR IS NULL OR model = $model::VARCHAR
GROUP BY ALL
ORDER BY model, site, layer, pooling, region
